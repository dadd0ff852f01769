import java.nio.file.Path;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

/**
 * Runs one node of Elasticsearch until SIGTERM.
 *
 * Elasticsearch's own start-up class guards the node by its entitlements, whose Java agent is in no public repository
 * of artifacts. This is the same start without that guard, and on the class path, for a run time without jdk.jlink.
 */
public final class ElasticsearchNode {
    private static final long CLOSE_SECONDS = 8;

    /** Arguments: the home folder (modules), and the folder of elasticsearch.yml and log4j2.properties. */
    public static void main(String[] arguments) throws Exception {
        Settings home = Settings.builder().put("path.home", arguments[0]).build();
        Environment environment =
            InternalSettingsPreparer.prepareEnvironment(home, Map.of(), Path.of(arguments[1]), () -> "test");
        LogConfigurator.setNodeName(Node.NODE_NAME_SETTING.get(environment.settings()));
        LogConfigurator.registerErrorListener();
        LogConfigurator.configure(environment, true);
        var modules = PluginsLoader.loadModulesBundles(environment.modulesDir(), false);
        Node node = new Node(environment, PluginsLoader.createPluginsLoader(modules, Set.of(), Map.of(), false));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> close(node)));
        node.start();
        Thread.currentThread().join();
    }

    private static void close(Node node) {
        try {
            node.prepareForClose();
            node.close();
            node.awaitClose(CLOSE_SECONDS, TimeUnit.SECONDS);
        } catch (Exception error) {
            error.printStackTrace();
        }
    }
}
